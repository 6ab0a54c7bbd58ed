"""Commands that map footage: map, poster, similar, unlike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotate.cli.options import Device, Force, Keyframes, Rate

if TYPE_CHECKING:
    from annotate.dataset.frame_sources import FrameSource


app = typer.Typer()

DEFAULT_RATE = 2.0  # frames a second, where nothing is said: twelve hours are then 86,400 frames

SourcePaths = Annotated[list[Path], typer.Argument(help="Clips, folders of images, or datasets.")]
OptionalEvery = Annotated[
    int | None, typer.Option(min=1, help="Take every N-th frame; else 2 a second, or --rate.")
]
EmbeddingModel = Annotated[
    str,
    typer.Option(help="What sees: the shipped network, efficientnet-lite0, or one of `models`."),
]
_DEFAULT_MODEL = "efficientnet-lite0-s16"


def _frame_sources(
    clips: list[Path], every: int | None, rate: float | None, keyframes: bool
) -> list[FrameSource]:
    from annotate.dataset import frame_sources
    from annotate.video.reader import FrameSelection

    if rate is None and every is None and not keyframes:
        rate = DEFAULT_RATE
    return [
        frame_sources.open_source(clip, FrameSelection(every or 1, rate, keyframes))
        for clip in clips
    ]


def _total_frames(sources: list[FrameSource]) -> int | None:
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


@app.command("map")
def map_(
    clips: SourcePaths,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the map.")],
    every: OptionalEvery = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    model: EmbeddingModel = _DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(help="pacmap, umap, autoencoder or pca; else the first that is installed."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another map.")] = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Lay out footage by its looks: a page to pan through it, a poster, and each clip's path."""
    from annotate import embeddings
    from annotate.cli import console
    from annotate.errors import OutputError
    from annotate.footage_map import atlas, poster, projection
    from annotate.web.map import PAGE_NAME, SpriteSheets, thumbnail_size_wh, write_page

    chosen = projection.choose_method(method)
    if (output / atlas.MAP_FILE).exists() and not force:
        raise OutputError(f"{output}: holds a map already: give another -o, or --force")
    sources, embedder = (
        _frame_sources(clips, every, rate, keyframes),
        embeddings.load(model, device),
    )
    total = _total_frames(sources)
    about = next(iter(sources[0].videos().values()))
    size_wh = (about["width"], about["height"])
    thumbs = SpriteSheets(thumbnail_size_wh(total or 10_000, size_wh))
    with console.progress("frames", total) as advance:

        def look(frame: object) -> None:
            thumbs.add(frame.image)  # type: ignore[attr-defined]
            advance()

        found = atlas.gather(sources, embedder, look)
    console.print_status(f"{len(found)} frames; laying them out by {chosen}")
    told = {"model": embedder.name, "every": every, "rate": rate, "keyframes": keyframes}
    made = atlas.lay_out(found, sources, chosen, told, seed)
    output.mkdir(parents=True, exist_ok=True)
    write_page(made, thumbs, output, ", ".join(list(made.clip_names)[:3]))
    poster.draw_paths(made, output / "paths.png")
    poster.draw_poster(
        made, poster.choose_tiles(made, poster.MapRegion()), 120, output / "poster.jpg"
    )
    made.save(output)
    for each in found.decode_errors:
        console.print_status(each)
    console.print_result(str(output / PAGE_NAME))


@app.command("poster")
def poster_(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate map` made.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG, JPEG or TIFF.")],
    x: Annotated[float, typer.Option(help="Left edge of the part shown, 0 to 1.")] = 0.0,
    y: Annotated[float, typer.Option(help="Its upper edge, 0 to 1.")] = 0.0,
    width: Annotated[float, typer.Option(help="How wide and high it is; 1 is the map.")] = 1.0,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="Frames across; else as many as fill it, up to 24.")
    ] = None,
    tile: Annotated[int, typer.Option(min=16, help="Pixels that a frame is wide.")] = 320,
    force: Force = False,
) -> None:
    """Print a part of a map: frames at any size, taken from the clips themselves."""
    from annotate.cli import console
    from annotate.errors import OutputError
    from annotate.footage_map import atlas, poster

    if output.exists() and not force:
        raise OutputError(f"{output}: is there already: give another -o, or --force")
    made = atlas.read(folder)
    shown = poster.choose_tiles(made, poster.MapRegion(x, y, width), tiles)
    with console.progress("tiles", int((shown >= 0).sum())) as advance:
        poster.draw_poster(made, shown, tile, output, advance)
    console.print_result(str(output))


@app.command()
def similar(
    query: Annotated[Path, typer.Argument(help="The clip that others are to be like.")],
    clips: SourcePaths,
    max_clips: Annotated[int, typer.Option("--max", min=1, help="At most so many.")] = 10,
    way: Annotated[str, typer.Option(help="dtw: warped in time; mean: by windows.")] = "dtw",
    every: OptionalEvery = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    model: EmbeddingModel = _DEFAULT_MODEL,
    device: Device = None,
) -> None:
    """List the clips most like a clip, and which part of each it is like."""
    from annotate import embeddings
    from annotate.cli import console
    from annotate.footage_map import atlas
    from annotate.video import reader

    others = [clip for clip in clips if clip.resolve() != query.resolve()]
    sources = _frame_sources([query, *others], every, rate, keyframes)
    with console.progress("frames", _total_frames(sources)) as advance:
        found = atlas.gather(sources, embeddings.load(model, device), advance)
    name = reader.probe(query).name
    rows = [
        (
            each.clip,
            f"{each.similarity:.3f}",
            f"{each.start_seconds:.2f}",
            f"{each.stop_seconds:.2f}",
        )
        for each in atlas.similar_clips(found, name, max_clips, way)
    ]
    console.print_table(("clip", "likeness", "from seconds", "to seconds"), rows)


@app.command()
def unlike(
    clips: SourcePaths,
    max_clips: Annotated[int, typer.Option("--max", min=1, help="At most so many.")] = 10,
    every: OptionalEvery = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    model: EmbeddingModel = _DEFAULT_MODEL,
    device: Device = None,
) -> None:
    """List clips that are most unlike each other: a few that stand for many."""
    from annotate import embeddings
    from annotate.cli import console
    from annotate.footage_map import atlas

    sources = _frame_sources(clips, every, rate, keyframes)
    with console.progress("frames", _total_frames(sources)) as advance:
        found = atlas.gather(sources, embeddings.load(model, device), advance)
    rows = [
        (name, "" if apart != apart else f"{apart:.3f}")
        for name, apart in atlas.diverse_clips(found, max_clips)
    ]
    console.print_table(("clip", "unlike the nearest before"), rows)
