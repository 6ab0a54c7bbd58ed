"""Runners for `propagate.py`: our SAM 2 loop and the packages' own predictors, on random weights.

This module is imported, not run. A runner tracks objects through a clip frame by frame: `begin`
opens the clip and gives the first prompts, `step` tracks all objects on the next frame. `multiply`
copies the first object until there are `n`, each with the same memory, so that the memory need not
be filled once for each number of objects.
"""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotate.items.records import Frame, Prompt
from annotate.video import reader

SMALL_SIDE = 128
SMALL = [
    f"++model.image_size={SMALL_SIDE}",
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=1",
]


def build_sam2(row: dict[str, Any]) -> Any:
    """Build the predictor of `sam2` with random weights; our loop runs on the same network."""
    import torch
    from sam2.build_sam import build_sam2_video_predictor

    from annotate.sam2.official import CONFIGS, bias_presence

    torch.manual_seed(0)
    overrides = SMALL if row["small"] else [f"++model.image_size={row['size']}"]
    model = build_sam2_video_predictor(CONFIGS["sam2.1-tiny"], None, "cpu", "eval", overrides)
    bias_presence(model)
    return model


def build_transformers(row: dict[str, Any]) -> Any:
    """Build a network of transformers with random weights."""
    import torch

    from annotate.sam2 import transformers as sam2_transformers

    torch.manual_seed(0)
    name = "edgetam-hf" if row["engine"].startswith("edgetam") else "sam2.1-tiny-hf"
    side = SMALL_SIDE if row["small"] else row["size"]
    config = sam2_transformers.with_input_size(sam2_transformers._random_config(name), side)
    if row["small"]:
        config.memory_attention_num_layers = 1
        config.memory_attention_rope_k_sizes = [side // 16] * 2  # used by EdgeTAM alone
        config.perceiver_resampler_num_latents_2d = (side // 16) ** 2
    model = sam2_transformers.build_random(config).eval()
    sam2_transformers.bias_presence(model)
    return model


def click_prompts(row: dict[str, Any], frame: Frame) -> list[Prompt]:
    """Make one click for each object, spread over the first frame."""
    width, height = frame.size_wh
    spread = np.linspace(0.1, 0.9, row["objects"])
    return [
        Prompt(0, object_id, np.array([[share * width, share * height]]), np.array([1]))
        for object_id, share in enumerate(spread, start=1)
    ]


class ClipReader:
    """Reads the clip and tracks nothing: the memory of the decoder alone."""

    model: Any = None

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def begin(self) -> None:
        """Open the clip."""
        self.frames = islice(reader.frames(self.row["clip"]), self.row["frames"])

    def step(self) -> None:
        """Read a frame."""
        next(self.frames)


class StreamingRunner(ClipReader):
    """Runs our streaming predictor, on `sam2` or transformers."""

    def __init__(self, row: dict[str, Any]) -> None:
        import torch

        from annotate.sam2.official import Sam2Network
        from annotate.sam2.session import StreamingPredictor
        from annotate.sam2.transformers import TransformersNetwork

        super().__init__(row)
        self.model = build_sam2(row) if row["engine"] == "sam2" else build_transformers(row)
        kind = Sam2Network if row["engine"] == "sam2" else TransformersNetwork
        self.network = kind(self.model, torch.float32)
        self.predictor = StreamingPredictor(self.network, 16, row["batch"])

    def step(self) -> None:
        """Track all objects on the next frame."""
        frame = next(self.frames)
        self.predictor.predict(frame, click_prompts(self.row, frame) if frame.index == 0 else [])

    def multiply(self, n: int) -> None:
        """Repeat the rows of the state that checkpoints save."""
        state = dict(self.predictor.state())
        for name, array in state.items():
            state[name] = np.concatenate([array] * n)
            if name in ("clocks", "rows"):
                state[name][:, 0] = np.repeat(np.arange(n), len(array))
        self.predictor.restore(state)


class Sam2StockRunner(ClipReader):
    """Runs the predictor of `sam2`, which reads the clip as JPEG files of the network's size."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.model = build_sam2(row)

    def begin(self) -> None:
        """Write the clip as JPEG files and give the prompts."""
        super().begin()
        side = (self.model.image_size, self.model.image_size)
        with tempfile.TemporaryDirectory() as folder:
            for frame in self.frames:
                path = Path(folder) / f"{frame.index:05d}.jpg"
                Image.fromarray(frame.image).resize(side).save(path, quality=95)
                if frame.index == 0:
                    small = Frame("", 0, frame.seconds, np.asarray(Image.open(path)))
            self.state = self.model.init_state(folder)
        for prompt in click_prompts(self.row, small):
            points = prompt.points_xy.astype(np.float32)
            self.model.add_new_points_or_box(self.state, 0, prompt.object_id, points, [1])
        self.results = self.model.propagate_in_video(self.state)
        self.next_frame = 0

    def step(self) -> None:
        """Track all objects on the next frame."""
        if next(self.results, None) is None:
            raise StopIteration
        self.next_frame += 1

    def multiply(self, n: int) -> None:
        """Give each copy the outputs of the first object."""
        outputs_of = self.state["output_dict_per_obj"]
        for object_id in range(2, n + 1):
            row = self.model._obj_id_to_idx(self.state, object_id)
            outputs_of[row] = {name: dict(outputs) for name, outputs in outputs_of[0].items()}
        self.results = self.model.propagate_in_video(self.state, start_frame_idx=self.next_frame)


class TransformersStockRunner(ClipReader):
    """Runs the streaming session of transformers."""

    def __init__(self, row: dict[str, Any]) -> None:
        import transformers

        super().__init__(row)
        self.model = build_transformers(row)
        size = {"height": self.model.image_size, "width": self.model.image_size}
        self.processor = transformers.Sam2VideoProcessor(
            image_processor=transformers.Sam2ImageProcessor(size=size),
            video_processor=transformers.Sam2VideoVideoProcessor(size=size),
            target_size=self.model.image_size,
        )
        self.session = self.processor.init_video_session()

    def step(self) -> None:
        """Track all objects on the next frame."""
        frame = next(self.frames)
        processed = self.processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
        if frame.index == 0:
            prompts = click_prompts(self.row, frame)
            self.processor.add_inputs_to_inference_session(
                self.session,
                0,
                [prompt.object_id for prompt in prompts],
                input_points=[[prompt.points_xy.tolist() for prompt in prompts]],
                input_labels=[[[1] for _ in prompts]],
                original_size=frame.image.shape[:2],
            )
        self.model(self.session, frame=processed.pixel_values_videos[0][0], frame_idx=frame.index)

    def multiply(self, n: int) -> None:
        """Give each copy the outputs of the first object."""
        outputs_of = self.session.output_dict_per_obj
        for object_id in range(2, n + 1):
            row = self.session.obj_id_to_idx(object_id)
            outputs_of[row] = {name: dict(outputs) for name, outputs in outputs_of[0].items()}


class UltralyticsStockRunner(ClipReader):
    """Runs the predictor of Ultralytics, on the same weights, in a file named as it expects."""

    def __init__(self, row: dict[str, Any]) -> None:
        import torch
        from ultralytics.models.sam import SAM2VideoPredictor

        super().__init__(row)
        settings = {
            "imgsz": row["size"],
            "device": "cpu",
            "save": False,
            "verbose": False,
            "conf": 0.0,
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sam2.1_t.pt"
            torch.save({"model": build_sam2(row).state_dict()}, path)
            self.predictor = SAM2VideoPredictor(overrides={**settings, "model": str(path)})
            self.predictor.setup_model(verbose=False)
        self.model = self.predictor.model

    def begin(self) -> None:
        """Open the clip."""
        first = next(iter(reader.frames(self.row["clip"], stop=1)))
        prompts = click_prompts(self.row, first)
        self.results: Iterator[Any] = self.predictor(
            self.row["clip"],
            stream=True,
            points=[prompt.points_xy[0].tolist() for prompt in prompts],
            labels=[1] * len(prompts),
        )

    def step(self) -> None:
        """Track all objects on the next frame."""
        next(self.results)

    def multiply(self, n: int) -> None:
        """Repeat the rows of the outputs, one for each object."""
        state = self.predictor.inference_state
        for outputs in state["output_dict"].values():
            for output in outputs.values():
                output.update({name: _repeat(value, n) for name, value in output.items()})
        state["tracking_has_started"] = False
        for object_id in range(1, n):
            self.predictor._obj_id_to_idx(object_id)
        state["tracking_has_started"] = True


def _repeat(value: Any, n: int) -> Any:
    """Repeat the first row of a tensor, or of each tensor of a list, for n objects."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_repeat(each, n) for each in value]
    return value[:1].repeat(n, *[1] * (value.dim() - 1))


def load_runner(row: dict[str, Any]) -> Any:
    """Make the runner of a row of the table."""
    runners = {
        "read": ClipReader,
        "sam2-stock": Sam2StockRunner,
        "ultralytics": UltralyticsStockRunner,
    }
    default = TransformersStockRunner if row["engine"].endswith("stock") else StreamingRunner
    return runners.get(row["engine"], default)(row)
