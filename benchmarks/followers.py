"""Run our SAM 2 loop and the stock predictors of the packages frame by frame, on random weights.

Every class has the same methods. `begin` opens the clip and gives the first prompts; `step` tracks
all objects on the next frame; `multiply` copies each object with its memory, so that a full memory
need not be filled again for each number of objects.
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


def sam2_model(row: dict[str, Any]) -> Any:
    """Build the stock predictor with random weights; our loop runs on the same weights."""
    import torch
    from sam2.build_sam import build_sam2_video_predictor

    from annotate.sam2.official import CONFIGS, bias_presence

    torch.manual_seed(0)
    sized = SMALL if row["small"] else [f"++model.image_size={row['size']}"]
    model = build_sam2_video_predictor(CONFIGS["sam2.1-tiny"], None, "cpu", "eval", sized)
    bias_presence(model)
    return model


def hf_model(row: dict[str, Any]) -> Any:
    """Build a network of transformers with random weights."""
    import torch

    from annotate.sam2 import transformers as sam2_transformers

    torch.manual_seed(0)
    name = "edgetam-hf" if row["engine"].startswith("edgetam") else "sam2.1-tiny-hf"
    side = SMALL_SIDE if row["small"] else row["size"]
    config = sam2_transformers.with_input_size(sam2_transformers._random_config(name), side)
    if row["small"]:
        config.memory_attention_num_layers = 1
        config.memory_attention_rope_k_sizes = [side // 16] * 2  # this and the next: EdgeTAM's
        config.perceiver_resampler_num_latents_2d = (side // 16) ** 2
    model = sam2_transformers.build_random(config).eval()
    sam2_transformers.bias_presence(model)
    return model


def prompts(row: dict[str, Any], frame: Frame) -> list[Prompt]:
    """Make one click for each object, spread over the first frame."""
    width, height = frame.size_wh
    spread = np.linspace(0.1, 0.9, row["objects"])
    return [
        Prompt(0, object_id, np.array([[share * width, share * height]]), np.array([1]))
        for object_id, share in enumerate(spread, start=1)
    ]


class Reading:
    """Only reads the clip: the memory that the decoder takes."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row, self.model = row, None

    def begin(self) -> None:
        """Open the clip."""
        self.frames = islice(reader.frames(self.row["clip"]), self.row["frames"])

    def step(self) -> None:
        """Read a frame."""
        next(self.frames)


class Ours(Reading):
    """Our loop, on a model of either package."""

    def __init__(self, row: dict[str, Any]) -> None:
        import torch

        from annotate.sam2.official import Sam2Network
        from annotate.sam2.session import StreamingPredictor
        from annotate.sam2.transformers import TransformersNetwork

        super().__init__(row)
        self.model = sam2_model(row) if row["engine"] == "sam2" else hf_model(row)
        kind = Sam2Network if row["engine"] == "sam2" else TransformersNetwork
        self.network = kind(self.model, torch.float32)
        self.follower = StreamingPredictor(self.network, 16, row["batch"])

    def step(self) -> None:
        """Track the objects on the next frame."""
        frame = next(self.frames)
        self.follower.predict(frame, prompts(self.row, frame) if frame.index == 0 else [])

    def multiply(self, n: int) -> None:
        """Copy the objects through the state that is saved to disk."""
        state = dict(self.follower.state())
        for name, array in state.items():
            state[name] = np.concatenate([array] * n)
            if name in ("clocks", "rows"):
                state[name][:, 0] = np.repeat(np.arange(n), len(array))
        self.follower.restore(state)


class Sam2Stock(Reading):
    """The predictor of the package `sam2`; it gets the clip as JPEG files at the network's size."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.model = sam2_model(row)

    def begin(self) -> None:
        """Write the clip as JPEG files, and give the prompts."""
        super().begin()
        side = (self.model.image_size, self.model.image_size)
        with tempfile.TemporaryDirectory() as folder:
            for frame in self.frames:
                path = Path(folder) / f"{frame.index:05d}.jpg"
                Image.fromarray(frame.image).resize(side).save(path, quality=95)
                if frame.index == 0:
                    small = Frame("", 0, frame.seconds, np.asarray(Image.open(path)))
            self.state = self.model.init_state(folder)
        for prompt in prompts(self.row, small):
            points = prompt.points_xy.astype(np.float32)
            self.model.add_new_points_or_box(self.state, 0, prompt.object_id, points, [1])
        self.results = self.model.propagate_in_video(self.state)
        self.next = 0

    def step(self) -> None:
        """Track the objects on the next frame."""
        if next(self.results, None) is None:
            raise StopIteration
        self.next += 1

    def multiply(self, n: int) -> None:
        """Copy the objects; each copy shares the outputs of the original."""
        held = self.state["output_dict_per_obj"]
        for object_id in range(2, n + 1):
            row = self.model._obj_id_to_idx(self.state, object_id)
            held[row] = {name: dict(outputs) for name, outputs in held[0].items()}
        self.results = self.model.propagate_in_video(self.state, start_frame_idx=self.next)


class HfStock(Reading):
    """The session of transformers, fed frame by frame."""

    def __init__(self, row: dict[str, Any]) -> None:
        import transformers

        super().__init__(row)
        self.model = hf_model(row)
        size = {"height": self.model.image_size, "width": self.model.image_size}
        self.processor = transformers.Sam2VideoProcessor(
            image_processor=transformers.Sam2ImageProcessor(size=size),
            video_processor=transformers.Sam2VideoVideoProcessor(size=size),
            target_size=self.model.image_size,
        )
        self.session = self.processor.init_video_session()

    def step(self) -> None:
        """Track the objects on the next frame."""
        frame = next(self.frames)
        done = self.processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
        if frame.index == 0:
            given = prompts(self.row, frame)
            self.processor.add_inputs_to_inference_session(
                self.session,
                0,
                [prompt.object_id for prompt in given],
                input_points=[[prompt.points_xy.tolist() for prompt in given]],
                input_labels=[[[1] for _ in given]],
                original_size=frame.image.shape[:2],
            )
        self.model(self.session, frame=done.pixel_values_videos[0][0], frame_idx=frame.index)

    def multiply(self, n: int) -> None:
        """Copy the objects; each copy shares the outputs of the original."""
        held = self.session.output_dict_per_obj
        for object_id in range(2, n + 1):
            row = self.session.obj_id_to_idx(object_id)
            held[row] = {name: dict(outputs) for name, outputs in held[0].items()}


class UltralyticsStock(Reading):
    """The predictor of Ultralytics, on the same weights, saved under a name that it accepts."""

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
            torch.save({"model": sam2_model(row).state_dict()}, path)
            self.predictor = SAM2VideoPredictor(overrides={**settings, "model": str(path)})
            self.predictor.setup_model(verbose=False)
        self.model = self.predictor.model

    def begin(self) -> None:
        """Open the clip."""
        first = next(iter(reader.frames(self.row["clip"], stop=1)))
        given = prompts(self.row, first)
        self.results: Iterator[Any] = self.predictor(
            self.row["clip"],
            stream=True,
            points=[prompt.points_xy[0].tolist() for prompt in given],
            labels=[1] * len(given),
        )

    def step(self) -> None:
        """Track the objects on the next frame."""
        next(self.results)

    def multiply(self, n: int) -> None:
        """Copy the objects: they are the rows of the outputs."""
        state = self.predictor.inference_state
        for outputs in state["output_dict"].values():
            for output in outputs.values():
                output.update({name: _repeated(held, n) for name, held in output.items()})
        state["tracking_has_started"] = False
        for object_id in range(1, n):
            self.predictor._obj_id_to_idx(object_id)
        state["tracking_has_started"] = True


def _repeated(held: Any, n: int) -> Any:
    """Repeat a tensor, or a list of tensors, for n objects."""
    if held is None:
        return None
    if isinstance(held, list):
        return [_repeated(each, n) for each in held]
    return held[:1].repeat(n, *[1] * (held.dim() - 1))


def load_follower(row: dict[str, Any]) -> Any:
    """Return the class that runs a row of the table."""
    kinds = {"read": Reading, "sam2-stock": Sam2Stock, "ultralytics": UltralyticsStock}
    stock = HfStock if row["engine"].endswith("stock") else Ours
    return kinds.get(row["engine"], stock)(row)
