"""Moondream 2 on this machine, through transformers, with the code of its pinned revision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from annotate import weights
from annotate.errors import WeightsError, needs

_TOKENIZER = "moondream/starmie-v1"  # what the model's own code asks the hub for, unpinned


def load(name: str = "moondream2", *, trust_remote_code: bool = False, device: str = "cpu") -> Any:
    """The model: an object with `detect`, `point`, `caption` and `query`.

    `name` is a model of the manifest, or a folder. Nothing is downloaded.

    Raises:
        WeightsError: nobody has said that its own Python code may run.
        MissingWeights: the model, or its tokenizer, is not on this machine.
        MissingPackage: transformers or torch is not installed.
    """
    if not trust_remote_code:
        raise WeightsError(
            f"{name} runs Python code that comes with its weights: read it in the folder that "
            f"`annotate models where {name}` names, then --set trust_remote_code=yes"
        )
    folder, tokenizer = weights.where(name), weights.where("starmie-v1")
    torch, transformers = needs("torch"), needs("transformers")
    with _instead_of_the_hub(_TOKENIZER, tokenizer):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=True,
            local_files_only=True,
            dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        )
    return model.to(device).eval()


@contextmanager
def _instead_of_the_hub(repo: str, tokenizer: Path) -> Iterator[None]:
    """Whoever asks the hub for a tokenizer gets our file, whose revision is pinned."""
    hub: Any = needs("huggingface_hub")
    download = hub.hf_hub_download

    def ours(repo_id: str, *args: Any, **kwargs: Any) -> Any:
        return str(tokenizer) if repo_id == repo else download(repo_id, *args, **kwargs)

    hub.hf_hub_download = ours
    try:
        yield
    finally:
        hub.hf_hub_download = download
