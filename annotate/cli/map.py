"""Commands that map footage: map, poster, similar, unlike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import Device, Force, Keyframes, Rate

app = typer.Typer()

SourcePaths = Annotated[list[Path], typer.Argument(help="Clips, folders of images, or datasets.")]
OptionalEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Take every N-th frame; default: 2 frames a second, or --rate."),
]
MaxClips = Annotated[int, typer.Option("--max-clips", min=1, help="List at most N clips.")]
EmbeddingModel = Annotated[
    str,
    typer.Option(
        help="Network that embeds frames: the default, efficientnet-lite0, or one of `models list`."
    ),
]
_DEFAULT_MODEL = "efficientnet-lite0-s16"


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
        typer.Option(
            help="pacmap, umap, autoencoder or pca; default: the first that is installed."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives another map.")] = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Lay out footage by similarity.

    Write an interactive page, a poster, and the path of each clip.
    """
    from annotate.cli import console
    from annotate.web.map import PAGE_NAME, build_map

    build_map(
        clips,
        output,
        every=every,
        rate=rate,
        keyframes=keyframes,
        model=model,
        method=method,
        seed=seed,
        device=device,
        force=force,
        progress=console.progress,
        report=console.print_status,
    )
    console.print_result(str(output / PAGE_NAME))


@app.command("poster")
def poster_(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate map` made.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG, JPEG or TIFF.")],
    x: Annotated[float, typer.Option(help="Left edge of the part shown, 0 to 1.")] = 0.0,
    y: Annotated[float, typer.Option(help="Upper edge of the part, 0 to 1.")] = 0.0,
    width: Annotated[
        float, typer.Option(help="Width and height of the part; 1 is the whole map.")
    ] = 1.0,
    tiles_across: Annotated[
        int | None,
        typer.Option(min=1, help="Frames in a row; default: as many as fill it, up to 24."),
    ] = None,
    tile_width: Annotated[int, typer.Option(min=16, help="Width of a frame, in pixels.")] = 320,
    force: Force = False,
) -> None:
    """Draw a part of a map as an image.

    The frames are read from the clips, and may have any size.
    """
    from annotate.cli import console
    from annotate.files import refuse_existing
    from annotate.footage_map import atlas, poster

    refuse_existing(output, force)
    footage_map = atlas.read(folder)
    tiles = poster.choose_tiles(footage_map, poster.MapRegion(x, y, width), tiles_across)
    with console.progress("tiles", int((tiles >= 0).sum())) as advance:
        poster.draw_poster(footage_map, tiles, tile_width, output, advance)
    console.print_result(str(output))


@app.command()
def similar(
    query: Annotated[Path, typer.Argument(help="The clip to compare the others with.")],
    clips: SourcePaths,
    max_clips: MaxClips = 10,
    method: Annotated[
        str, typer.Option(help="dtw: aligned in time; mean: by windows of eight frames.")
    ] = "dtw",
    every: OptionalEvery = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    model: EmbeddingModel = _DEFAULT_MODEL,
    device: Device = None,
) -> None:
    """List the clips most similar to a clip.

    Show which part of each is similar.
    """
    from annotate.cli import console
    from annotate.footage_map.similarity import find_similar

    found = find_similar(
        query,
        clips,
        every=every,
        rate=rate,
        keyframes=keyframes,
        model=model,
        device=device,
        max_clips=max_clips,
        method=method,
        progress=console.progress,
    )
    rows = [
        (
            each.clip,
            f"{each.similarity:.3f}",
            f"{each.start_seconds:.2f}",
            f"{each.stop_seconds:.2f}",
        )
        for each in found
    ]
    console.print_table(("clip", "similarity", "from seconds", "to seconds"), rows)


@app.command()
def unlike(
    clips: SourcePaths,
    max_clips: MaxClips = 10,
    every: OptionalEvery = None,
    rate: Rate = None,
    keyframes: Keyframes = False,
    model: EmbeddingModel = _DEFAULT_MODEL,
    device: Device = None,
) -> None:
    """List clips that differ most from each other."""
    from annotate.cli import console
    from annotate.footage_map.similarity import find_diverse

    diverse = find_diverse(
        clips,
        every=every,
        rate=rate,
        keyframes=keyframes,
        model=model,
        device=device,
        max_clips=max_clips,
        progress=console.progress,
    )
    rows = [(name, "" if distance != distance else f"{distance:.3f}") for name, distance in diverse]
    console.print_table(("clip", "distance to the nearest above"), rows)
