import inspect

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_image import HfImage
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel_gru import MelGru
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.text_cnn import TextCnn
from mmlight.encoders.timm_image import TimmImage

CLASSES = (TimmImage, HfImage, HfText, TextCnn, MelTimm, MelGru, HfAudio)


def test_every_parameter_has_a_help_line():
    for cls in CLASSES:
        for name in inspect.signature(cls.__init__).parameters:
            # Python 3.13 takes the common indentation off itself.
            told = inspect.cleandoc(cls.__doc__ or "")
            assert name == "self" or f"    {name}: " in told, (cls, name)
