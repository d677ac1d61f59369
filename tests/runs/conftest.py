import pytest


@pytest.fixture
def readable_text(monkeypatch):
    """Fail where a picture is saved with letters below 8 points, which a page shows as 9 px."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    savefig = Figure.savefig

    def checked(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert [t.get_text() for t in texts if t.get_fontsize() < 8] == []

    monkeypatch.setattr(Figure, "savefig", checked)
