import pytest

from mmlight.config_errors import one_line

KNOWN = ["trainer.max_steps", "trainer.max_epochs", "model", "data", "run.name"]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Subcommand 'fit' does not accept option 'trainer.max_step'",
            "unknown key `trainer.max_step` (did you mean 'trainer.max_steps'?)",
        ),
        (
            "Subcommand 'fit' does not accept option 'modl.class_path'",
            "unknown key `modl` (did you mean 'model'?)",
        ),
    ],
)
def test_unknown_key_names_the_nearest(message, line):
    assert one_line(message, known_keys=KNOWN) == line


def test_nested_complaint_keeps_its_innermost_line():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'x.Task'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'mmlight.tasks.contrastive.Contrastive':
        Parser key "towers.image":
          Problem with given class_path 'mmlight.tasks.tower.TowerSettings':
            Option 'lockd' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'lockd': True}"""
    assert one_line(message, known_keys=KNOWN) == (
        "unknown key `model.towers.image.lockd` (did you mean 'locked'?)"
    )


def test_wrong_type_names_key_and_value():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'mmlight.tasks.contrastive.Contrastive':
        Parser key "embed_dim":
          Expected a <class 'int'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>"""
    assert one_line(message, known_keys=KNOWN) == (
        "model.embed_dim: must be a whole number, not abc"
    )


def test_setting_of_a_class_that_is_not_named():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'x.Task'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'mmlight.tasks.classification.Classification':
        Parser key "towers.audio.encoder":
          Type collections.abc.Callable[[], x.Encoder] expects a function or a callable class: \
Dict must include a class_path and optionally init_args, but got NestedArg(key='mask', val={}). \
Got value: Namespace(mask={})
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='towers.audio.encoder.mask', val={})"""
    where = "model.towers.audio"
    assert one_line(message, known_keys=KNOWN) == (
        f"{where}.encoder: no class is named that could have a setting `mask`; give "
        f"{where}.encoder.class_path first, or for a tower that comes from a run {where}.changes"
    )
