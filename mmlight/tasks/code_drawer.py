"""Draws images code by code from captions, and says captions of images.

Shapes as in `mmlight.batch`: B samples, C channels, H and W pixels, L codes of an image, W tokens
of a caption's field, S places of a sequence, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmlight.batch import Images
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.generate import Prompt, generate
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.codes import CodeEncoder
from mmlight.tasks.code_words import CodeWords
from mmlight.tasks.discrete_codes import as_pixels
from mmlight.text.tokenizer import Tokenizer

_AT_ONCE = 64


@dataclass(frozen=True)
class DrawnImages:
    """Images that were drawn.

    Attributes:
        pixels_BCHW: uint8.
        codes_BL: int64.
        log_probability_B: of the codes by the model's own scores, with guidance.
    """

    pixels_BCHW: Tensor
    codes_BL: Tensor
    log_probability_B: Tensor


@dataclass(frozen=True)
class CodeDrawer:
    """A transformer over captions and codes, at work; its parts are in evaluation mode.

    Attributes:
        codes: the tokenizer of images.
        decoder: the transformer.
        words: its vocabulary.
        tokenizer: of captions.
    """

    codes: CodeEncoder
    decoder: Decoder
    words: CodeWords
    tokenizer: Tokenizer

    def draw(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        rows: Sequence[int] | None,
        begun_BL: Tensor | None,
        device: torch.device,
    ) -> DrawnImages:
        """Return an image for each prompt; see `mmlight.tasks.text_to_image.TextToImage`."""
        encoding = self.tokenizer.encode_batch(prompts, max_tokens=self.words.width)
        ids_BL, mask_BL = (
            torch.from_numpy(part).to(device) for part in (encoding.ids_NL, encoding.mask_NL)
        )
        field_BW = self.words.fields(ids_BL, mask_BL)
        if begun_BL is None:
            begun_BL = field_BW.new_zeros(len(field_BW), 0)
        numbers = list(range(len(prompts)) if rows is None else rows)
        codes: list[Tensor] = []
        scores: list[float] = []
        for start in range(0, len(prompts), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found = self._continued(
                field_BW[part], begun_BL[part], sampling=sampling, rows=numbers[part]
            )
            codes.append(found[0])
            scores += found[1]
        codes_BL = torch.cat(codes)
        pixels = [as_pixels(self.codes, self.codes.decode(c)) for c in codes_BL.split(_AT_ONCE)]
        return DrawnImages(torch.cat(pixels), codes_BL, torch.tensor(scores))

    def describe(self, image: Images, sampling: Sampling) -> list[str]:
        """Return what the transformer says of images."""
        words, device = self.words, image.pixels_BCHW.device
        image_B1L = words.image_part(self.codes.codes(image))
        mark_B1 = torch.full_like(image_B1L[:, :1], words.text_start)
        answers = generate(
            self.decoder,
            self._prompt(torch.cat([image_B1L, mark_B1], 1)),
            replace(sampling, max_new_tokens=words.width),
            end_id=words.pad_id if words.end_id is None else words.end_id,
            allowed_V=self._allowed(words.is_text(device)),
        )
        return [self.tokenizer.decode(one.tokens) for one in answers]

    def _continued(
        self, field_BW: Tensor, begun_BL: Tensor, *, sampling: Sampling, rows: Sequence[int]
    ) -> tuple[Tensor, list[float]]:
        words, device = self.words, field_BW.device
        image_B1L = words.image_part(begun_BL)
        without_BW = words.without_caption(len(field_BW), device=device)
        prompt, without = (
            self._prompt(torch.cat([words.text_part(field), image_B1L], 1))
            for field in (field_BW, without_BW)
        )
        answers = generate(
            self.decoder,
            prompt,
            replace(sampling, max_new_tokens=words.length - begun_BL.shape[1]),
            end_id=None,
            without_prompt=without,
            allowed_V=self._allowed(words.is_code(device)),
            rows=rows,
        )
        new_BL = torch.tensor([one.tokens for one in answers], device=device) - words.first_code
        return torch.cat([begun_BL, new_BL], 1), [one.log_probability for one in answers]

    def _prompt(self, ids_BS: Tensor) -> Prompt:
        return Prompt(self.decoder.embed(ids_BS), torch.ones_like(ids_BS, dtype=torch.bool))

    def _allowed(self, allowed_V: Tensor) -> Tensor:
        """Return the same for a decoder with a larger vocabulary."""
        extra = self.decoder.vocab_size - len(allowed_V)
        return torch.cat([allowed_V, allowed_V.new_zeros(extra)])
