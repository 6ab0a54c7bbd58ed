"""Train in the child process of the trainer `ultralytics`, with the network cut.

The process is `python -m annotate.training.ultralytics_child SPEC.json`. It prints a line of JSON
after each epoch. `best.pt` and `last.pt` are copied into the folder after each epoch, atomically:
the package writes its own in place, so that a kill could tear them.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.files import atomic_file, write_json
from annotate.weights.lineage import tensor_sha256

BEST_FILE, LAST_FILE, WEIGHTS_FILE, RESULT_FILE = "best.pt", "last.pt", "weights.pt", "result.json"
_MOSAIC_OFF_SHARE = 0.15  # of the epochs, at the end
_WARMUP_EPOCHS = 1.0
_BATCHES_PER_STEP = 2  # the package adds up 64 pictures, which leaves a small set few steps
_BACKBONE_LAYERS = 10  # without the attention at its end, as measured
_OFF: Mapping[str, Any] = {"plots": False, "verbose": False, "save_period": -1, "exist_ok": True}


@dataclass(frozen=True)
class ChildSpec:
    """What the child process trains; paths are absolute texts."""

    data: str
    weights: str
    folder: str
    run_folder: str
    classes: tuple[str, ...]
    epochs: int
    image_size: int
    batch_size: int
    learning_rate: float
    seed: int
    freeze: str
    threads: int
    device: str | None = None
    resume: bool = False
    encoder: str = ""  # of the classes of a YOLO-World
    finish_only: bool = False


def cut_network(attempts: list[str]) -> None:
    """Make every connection and every look-up of a name fail, and list them in `attempts`."""

    def refuse(kind: str, place: Any) -> None:
        attempts.append(f"{kind} {place}")
        raise OSError(f"no network in a training: {kind} {place}")

    def local_or_refused(connect: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family == getattr(socket, "AF_UNIX", None):  # workers of a loader
                return connect(self, address)
            return refuse("connection to", address)

        return guarded

    patched: Any = socket.socket
    patched.connect = local_or_refused(socket.socket.connect)
    patched.connect_ex = local_or_refused(socket.socket.connect_ex)
    module: Any = socket
    module.getaddrinfo = lambda host, *rest, **options: refuse("look-up of", host)
    module.gethostbyname = lambda host: refuse("look-up of", host)


def place_fonts() -> None:
    """Put a font under the names that the package would fetch into its configuration folder."""
    import matplotlib

    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    folder = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(source, folder / name)


def train(spec: ChildSpec, print_epoch: Callable[[Mapping[str, Any]], None]) -> None:
    """Train, write `weights.pt` and `result.json` into the folder; report each epoch."""
    from annotate.detectors.ultralytics import import_ultralytics, resolve_device

    attempts: list[str] = []
    cut_network(attempts)
    place_fonts()
    package = import_ultralytics()
    import torch

    torch.set_num_threads(spec.threads)  # the package sets one thread when it is imported
    torch.use_deterministic_algorithms(True, warn_only=True)
    callbacks: Any = importlib.import_module("ultralytics.utils.callbacks")
    callbacks.add_integration_callbacks = lambda instance: None  # no loggers, uploads, statistics
    device, device_type = resolve_device(spec.device)
    folder = Path(spec.folder)
    settings = _settings(spec, device_type == "cuda")
    if not spec.finish_only and not (spec.resume and _last_epoch(folder) >= spec.epochs):
        trainer = _make_trainer(spec, {**settings, "device": device})
        _add_callbacks(trainer, folder, print_epoch)
        trainer.train()
    tensors = _write_weights(folder, spec.classes, spec.image_size)
    write_json(
        folder / RESULT_FILE,
        {
            "tensor_sha256": tensor_sha256(tensors),
            "last_epoch": _last_epoch(folder),
            "device": device_type,
            "settings": {
                **settings,
                "versions": _versions(package, torch),
                "refused_connections": attempts,
            },
        },
    )


def _versions(package: Any, torch: Any) -> dict[str, str]:
    return {"ultralytics": package.__version__, "torch": torch.__version__}


def _settings(spec: ChildSpec, on_cuda: bool) -> dict[str, Any]:
    """Return the arguments of the package that shape the weights."""
    mosaic_off = max(1, round(_MOSAIC_OFF_SHARE * spec.epochs)) if spec.epochs > 1 else 0
    return {
        "epochs": spec.epochs,
        "imgsz": spec.image_size,
        "batch": spec.batch_size,
        "nbs": _BATCHES_PER_STEP * spec.batch_size,
        "seed": spec.seed,
        "optimizer": "AdamW",
        "lr0": spec.learning_rate,
        "momentum": 0.9,
        "warmup_epochs": _WARMUP_EPOCHS,
        "warmup_bias_lr": 0.0,
        "close_mosaic": mosaic_off,
        "patience": spec.epochs,  # no early stop: it would stop on the noise of a small val
        "freeze": _BACKBONE_LAYERS if spec.freeze == "backbone" else None,
        "amp": "bf16" if on_cuda else False,
        "deterministic": True,
        "workers": 8 if on_cuda else 0,
    }


def _make_trainer(spec: ChildSpec, settings: Mapping[str, Any]) -> Any:
    """Make the trainer of the package for the kind of the checkpoint."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import WorldModel, load_checkpoint

    overrides = {**_OFF, **settings, "data": spec.data, "model": spec.weights, "task": "detect"}
    run_folder = Path(spec.run_folder)
    overrides |= {"project": str(run_folder.parent), "name": run_folder.name, "mode": "train"}
    if spec.resume:
        overrides["resume"] = str(Path(spec.folder) / LAST_FILE)
    network, _ = load_checkpoint(spec.weights)

    class OfflineTrainer(DetectionTrainer):  # type: ignore[misc,unused-ignore]
        def final_eval(self) -> None:
            """Skip the last validation: the best weights have been validated in their epoch."""

    class OfflineWorldTrainer(OfflineTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            """Make a YOLO-World with the vectors of the classes, which stay as they are."""
            model: Any = WorldModel(cfg["yaml_file"], nc=len(spec.classes), verbose=False)
            if weights:
                model.load(weights)
            model.txt_feats = vectors
            model.model[-1].nc = len(spec.classes)
            return model

        def preprocess_batch(self, batch: Any) -> Any:
            batch = super().preprocess_batch(batch)
            on_device = vectors.to(batch["img"].device)
            batch["txt_feats"] = on_device.expand(len(batch["img"]), -1, -1)
            return batch

    if isinstance(network, WorldModel):
        vectors = _text_vectors(spec)
        return OfflineWorldTrainer(overrides=overrides)
    if not spec.resume:
        overrides |= _plain_network(network, spec.weights)
    return OfflineTrainer(overrides=overrides)


def _plain_network(network: Any, weights: str) -> dict[str, Any]:
    """Name the plain network for boxes that a YOLOE, or a network of another task, is made from."""
    name = Path(str(network.yaml.get("yaml_file", ""))).stem
    is_yoloe = name.startswith("yoloe-")
    if not is_yoloe and network.task == "detect":
        return {}
    plain = name.replace("yoloe-", "yolo")
    for suffix in ("-seg", "-pose", "-obb"):
        plain = plain.removesuffix(suffix)
    return {"model": f"{plain}.yaml", "pretrained": weights}


def _text_vectors(spec: ChildSpec) -> Any:
    """Encode the classes, (1, classes, width), from the cache where possible."""
    import torch

    from annotate.detectors.yolo_open_vocabulary import encode_phrases

    return torch.from_numpy(encode_phrases(spec.encoder, spec.classes))[None]


def _add_callbacks(
    trainer: Any, folder: Path, print_epoch: Callable[[Mapping[str, Any]], None]
) -> None:
    parent = os.getppid()

    def stop_with_parent(trainer: Any) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for the result

    def copy_weights(trainer: Any) -> None:
        names = [LAST_FILE] + [BEST_FILE] * (trainer.best_fitness == trainer.fitness)
        for name in names:
            with atomic_file(folder / name) as draft:
                shutil.copyfile(trainer.wdir / name, draft)

    def report(trainer: Any) -> None:
        losses = trainer.tloss.values() if isinstance(trainer.tloss, Mapping) else trainer.tloss
        ap50 = trainer.metrics.get("metrics/mAP50(B)")
        record = {"epoch": trainer.epoch + 1, "loss": float(sum(float(x) for x in losses))}
        print_epoch(record | {"ap50": None if ap50 is None else float(ap50)})

    trainer.callbacks = {name: [] for name in trainer.callbacks}
    trainer.callbacks["on_train_batch_end"] = [stop_with_parent]
    trainer.callbacks["on_model_save"] = [copy_weights]
    trainer.callbacks["on_fit_epoch_end"] = [report]


def _write_weights(folder: Path, classes: tuple[str, ...], image_size: int) -> dict[str, Any]:
    """Write `weights.pt` from `best.pt`, without paths, dates and optimizer; return its tensors."""
    import torch
    from ultralytics.utils.patches import torch_load

    checkpoint = torch_load(folder / BEST_FILE, map_location="cpu")
    model = (checkpoint.get("ema") or checkpoint["model"]).half().eval()
    model.criterion = None
    model.names = dict(enumerate(classes))
    model.args = {"task": "detect", "imgsz": image_size}
    for parameter in model.parameters():
        parameter.requires_grad = False
    record = {
        "epoch": -1,
        "model": model,
        "train_args": {"task": "detect", "imgsz": image_size},
        "version": checkpoint["version"],
        "license": checkpoint["license"],
    }
    with atomic_file(folder / WEIGHTS_FILE) as draft:
        torch.save(record, draft)
    return {name: each.numpy() for name, each in model.state_dict().items()}


def _last_epoch(folder: Path) -> int:
    """Return the number of the last whole epoch, from 1 on."""
    from ultralytics.utils.patches import torch_load

    return int(torch_load(folder / LAST_FILE, map_location="cpu")["epoch"]) + 1


def main(spec_path: str) -> None:
    """Train as the file says; the lines of JSON go to stdout, everything else to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the package prints is no result
    record = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    spec = ChildSpec(**record | {"classes": tuple(record["classes"])})

    def print_epoch(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        train(spec, print_epoch)
    except Exception as error:
        import traceback

        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        sys.exit(f"{type(error).__name__}: {lines[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
