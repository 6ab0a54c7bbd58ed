"""Commands that find what is rare: find, gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from annotate.options import Force, Settings, pairs

if TYPE_CHECKING:
    from annotate.find import Clips, Findings
    from annotate.records import Picture

app = typer.Typer()


@app.command()
def find(
    clips: Annotated[list[Path], typer.Argument(help="Videos, or folders of images.")],
    reference: Annotated[
        list[Path], typer.Option(help="A picture that shows it, cut close; repeatable.")
    ],
    name: Annotated[str, typer.Option(help="What it is, in words; also its class.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what is found.")],
    detector: Annotated[
        str, typer.Option("-d", "--detector", help="vlm asks a model; local ranks by likeness.")
    ] = "local",
    looks: Annotated[int, typer.Option(min=1, help="Frames of each shot looked at first.")] = 2,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="vlm: at most N pictures; local: N shots.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="vlm: spend no more; needs prices.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, max=100, help="Pictures to a question.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 15,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Say what it would cost, and ask nothing.")
    ] = False,
    truth: Annotated[
        list[Path] | None, typer.Option(help="JSON with shots and their rare_frames; repeatable.")
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Find the shots that show something rare: ask a model, or rank them by likeness."""
    from annotate import asking, console, find, hits
    from annotate.errors import AnnotateError, UnknownName

    if detector not in ("local", "vlm"):
        raise UnknownName("way to find", detector, ("local", "vlm"))
    shown = [asking.read_reference(path) for path in reference]
    asker = None
    if detector == "vlm":
        asker = _asker(settings, name, shown, budget, chunk, workers)
    with console.progress("shots", _frames(clips)) as advance:
        cut = find.cut(clips, advance)
    header = _header(cut, reference, name, detector, looks, asker)
    if not forecast:
        hits.begun(output, header, force=force)
    if asker is None:
        found, source = _ranked(cut, shown, looks, most or 40), "find/local"
    else:
        asker.clips.update(cut.paths)
        _forecast(cut, asker, looks, most)
        if forecast:
            return
        found, source = _asked(cut, asker, shown, looks, most, budget), "find/vlm"
    hits.write(output, cut, found, name, header, source)
    _report(output, cut, found, asker, truth)
    if found.stopped:
        raise AnnotateError(f"{found.stopped}; {_open(found)} of {len(cut.shots)} shots are open")


def _asker(
    settings: list[str] | None,
    name: str,
    shown: list[Picture],
    budget: float | None,
    chunk: int,
    workers: int,
) -> Any:
    """Who is asked: the options are those of the detector `vlm`."""
    from dataclasses import replace

    from annotate import asking, detect
    from annotate.errors import AnswerError, needs
    from annotate.records import Vocabulary

    said = {"side": "512", "detail": "low"} | pairs(settings)
    said |= {} if budget is None else {"budget": str(budget)}
    given = detect.parse_options("vlm", said)
    made: Any = detect.load("vlm", Vocabulary(name, {name: {"vlm": name}}, ""), **given)
    if not made.model:
        raise AnswerError("vlm: which model? --set model=NAME, and --set url=ADDRESS")
    needs("openai"), needs("json_repair")
    chat = replace(made.chat, max_tokens=max(made.max_tokens, 60 * chunk))
    return asking.Asker(chat, name, shown, {}, made.side, made.detail, chunk, workers)


def _frames(clips: list[Path]) -> int | None:
    from annotate import video

    counts = [video.probe(clip).frame_count for clip in clips]
    return None if None in counts else sum(count or 0 for count in counts)


def _forecast(cut: Clips, asker: Any, looks: int, most: int | None) -> None:
    """Say what asking is likely to cost: the first looks, and a fifth more for what follows."""
    from annotate import console, find
    from annotate.spending import Usage

    first = sum(len(find.places(shot, cut.about[shot.video], looks)) for shot in cut.shots)
    pictures = min(round(1.2 * first), most or 1 << 60)
    about = next(iter(cut.about.values()))
    tokens_in, tokens_out = asker.tokens(pictures, (about.width, about.height))
    money = asker.chat.meter.prices.of(Usage(tokens_in, tokens_out))
    questions = -(-pictures // asker.chunk)
    console.say(
        f"{cut.frame_count:,} frames are {len(cut.shots)} shots; about {pictures} pictures in "
        f"{questions} questions, {tokens_in:,} tokens in, {tokens_out:,} out"
        + (f": {money:.4f}" if money else "")
    )


def _asked(
    cut: Clips, asker: Any, shown: list[Picture], looks: int, most: int | None, budget: float | None
) -> Findings:
    from annotate import console, find

    order = None
    if most is not None or budget is not None:
        with console.progress("likeness", None, "pictures") as advance:
            order = list(find.rank(cut, shown, looks, advance))
    about = next(iter(cut.about.values()))
    asked = 0

    def left() -> int | None:
        may = asker.affordable(asked, (about.width, about.height))
        limits = [
            each for each in (may, None if most is None else most - asked) if each is not None
        ]
        return min(limits, default=None)

    with console.progress(asker.chat.model, None, "pictures") as advance:

        def told(pictures: int) -> None:
            nonlocal asked
            asked += pictures
            bill = asker.chat.meter.bill
            for _ in range(pictures):
                advance(told=f"{bill.asked} questions, {bill.money:.4f}")

        return find.ask(cut, asker, looks, order, left, told)


def _ranked(cut: Clips, shown: list[Picture], looks: int, most: int) -> Findings:
    """The shots most like the references, as if each had been said to show it."""
    from annotate import console, find
    from annotate.settling import Shown

    with console.progress("likeness", looks * len(cut.shots), "pictures") as advance:
        ranked = find.rank(cut, shown, looks, advance)
    found = find.Findings(cut.shots, settled=set(list(ranked)[:most]))
    for number in found.settled:
        likeness, frame = ranked[number]
        shot = cut.shots[number]
        found.shown[number] = Shown(shot.start, shot.stop, frame, likeness)
    return found


def _header(
    cut: Clips, reference: list[Path], name: str, detector: str, looks: int, asker: Any
) -> Any:
    from annotate import download, journal

    told = {"detector": detector, "looks": looks}
    told |= {"references": [download.sha256(path) for path in reference]}
    videos = {
        key: facts for about in cut.about.values() for key, facts in journal.about(about).items()
    }
    words = {"name": "", "sha256": "", "labels": [name]}
    return journal.Header("find", told, "" if asker is None else asker.chat.model, words, videos)


def _open(found: Findings) -> int:
    return len(found.shots) - len(found.settled)


def _report(
    output: Path, cut: Clips, found: Findings, asker: Any, truth: list[Path] | None
) -> None:
    from annotate import console, find_truth, hits

    rows = [
        (
            hit.video,
            f"{float(hit.seconds):.2f}",
            hit.start,
            hit.stop,
            "" if hit.confidence is None else f"{hit.confidence:.2f}",
        )
        for hit in hits.read(output)
    ]
    console.table(("clip", "seconds", "from", "to", "confidence"), rows)
    if asker is not None:
        bill = asker.chat.meter.bill
        each = cut.frame_count / max(bill.asked + bill.known, 1)
        console.say(bill.words(found.pictures, 0))
        console.say(f"{found.pictures} pictures of {cut.frame_count:,} frames were asked, "
                    f"{cut.frame_count / max(found.pictures, 1):.0f} frames to a picture, "
                    f"{each:.0f} to a question")  # fmt: skip
    for line in cut.broken:
        console.say(line)
    if truth:
        rated = find_truth.rate(hits.read(output), truth)
        console.say(
            f"recall {rated.recall:.3f} ({rated.found} of {rated.shots} shots), "
            f"precision {rated.precision:.3f} ({rated.right} of {rated.hits} hits)"
        )
    console.put(str(output / hits.ITEMS))


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder that `annotate find` filled.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look through what was found, on this machine alone: keep or reject by a key."""
    import threading
    import webbrowser

    from annotate import console, gallery, hits
    from annotate.errors import OutputError

    try:
        with gallery.serving(folder, port) as address:
            console.put(address)
            console.say("Ctrl-C ends it; decisions are saved as they are made")
            if browser:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        said = hits.decisions(folder)
        kept = sum(said.values())
        console.say(f"{kept} kept, {len(said) - kept} rejected; {folder / hits.ITEMS}")
    except OSError as error:
        raise OutputError(f"port {port}: cannot be served there: {error.strerror}") from None
