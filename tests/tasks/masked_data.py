"""A tiny experiment of masked language modelling on the shards of `cli_data`."""

import cli_data

BERT = {
    "model_type": "bert",
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def experiment(data, runs, **text):
    """Return it; `text` changes its text settings."""
    values = cli_data.experiment(data, runs)
    settings = {
        "tokenizer": {"class_path": "mmlight.text.tokenizer.ByteTokenizer"},
        "max_tokens": 16,
        "documents": "packed",
        "masking": {"kind": "whole_word", "share": 0.3},
    }
    encoder = {"class_path": "mmlight.encoders.hf_text.HfText", "init_args": {"config": BERT}}
    values["data"]["init_args"] = {
        name: value
        for name, value in values["data"]["init_args"].items()
        if name not in ("image", "audio", "class_names")
    } | {"members": {"text": cli_data.MEMBERS["text"]}, "text": settings | text}
    values["model"] = {
        "class_path": "mmlight.tasks.masked_language.MaskedLanguage",
        "init_args": {
            "optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            "schedule": {"warmup_steps": 2, "kind": "constant"},
            "towers": {"text": {"encoder": encoder}},
        },
    }
    return values
