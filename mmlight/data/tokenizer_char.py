"""A tokenizer of single characters that needs no file: for transcripts."""

from collections.abc import Sequence

from mmlight.data.tokenizer import Offsets, State, Tokenizer
from mmlight.errors import UserError

ENGLISH = " 'abcdefghijklmnopqrstuvwxyz"


class CharTokenizer(Tokenizer):
    """Each character is a token; nothing opens or closes a text.

    Ids: 0 padding, 1 any other character, then those of `characters` in order.

    Args:
        characters: those that texts may hold; by default space, apostrophe and the letters a to z.
        lowercase: fold the case of texts first.

    Raises:
        UserError: no character, one that comes twice, or one that folding the case would change.
    """

    pad_id = 0
    unk_id = 1
    _first = 2

    def __init__(self, characters: str = ENGLISH, lowercase: bool = True) -> None:
        twice = next((c for n, c in enumerate(characters) if c in characters[:n]), None)
        if not characters or twice is not None:
            what = "is empty" if not characters else f"holds '{twice}' twice"
            raise UserError(f"text.tokenizer.characters {what}; name each character once")
        if lowercase and (upper := next((c for c in characters if c.lower() != c), None)):
            raise UserError(
                f"text.tokenizer.characters: '{upper}' never comes up with lowercase: true; set it "
                "to false, or name small letters"
            )
        self.characters, self.lowercase = characters, lowercase
        self.vocab_size = self._first + len(characters)
        self._id_of = {c: n for n, c in enumerate(characters, start=self._first)}

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of the first `max_tokens` characters of each text."""
        return [ids for ids, _ in self.encode_with_offsets(texts, max_tokens=max_tokens)]

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and the place of each token's character."""
        result: list[tuple[list[int], list[Offsets]]] = []
        for text in texts:
            # Folded one by one, for some characters become two (İ).
            folded = [
                (small, (n, n + 1))
                for n, character in enumerate(text)
                for small in (character.lower() if self.lowercase else character)
            ][:max_tokens]
            ids = [self._id_of.get(character, self.unk_id) for character, _ in folded]
            result.append((ids, [place for _, place in folded]))
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids; other characters become U+FFFD."""
        shown = {i: c for c, i in self._id_of.items()} | {self.unk_id: "\ufffd"}
        return "".join(shown[i] for i in ids if i != self.pad_id)

    def state(self) -> State:
        """Return the characters and whether case is folded."""
        return {
            "kind": "char",
            "characters": self.characters,
            "lowercase": int(self.lowercase),
            "pad_id": self.pad_id,
            "unk_id": self.unk_id,
        }
