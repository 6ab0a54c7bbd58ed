"""Commands that find out what works: compare, phrases, study."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Every,
    Force,
    Least,
    Most,
    PerhapsWords,
    Start,
    Stop,
    complete_detector,
)

app = typer.Typer()


@app.command()
def compare(
    source: Annotated[Path, typer.Argument(help="A clip, or a dataset's folder.")],
    detector: Annotated[
        list[str],
        typer.Option(
            "-d",
            "--detector",
            metavar="NAME[:KEY=VALUE,...]",
            autocompletion=complete_detector,
            help="A column: a detector, perhaps with options; repeatable.",
        ),
    ],
    vocabulary: PerhapsWords = None,
    truth: Annotated[
        Path | None, typer.Option(help="What is there: items, COCO or a dataset.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for tables and pictures.")
    ] = Path("compare"),
    each_phrase: Annotated[
        bool, typer.Option("--each-phrase", help="A column more for each alternative of a class.")
    ] = False,
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    most: Most = None,
    least: Least = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Frames that a detector sees at a time.")] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Frames on the sheet.")] = 8,
    force: Force = False,
) -> None:
    """Run detectors side by side, each in its own process; tell what each finds and costs."""
    from annotate import (
        columns,
        compare,
        compare_pictures,
        console,
        detect,
        footage,
        prompts,
        sample,
    )
    from annotate import truth as truths
    from annotate.errors import AnnotateError

    seen = footage.of(source, sample.Choice(every, start=start, stop=stop, maximum=most))
    known = truths.read(truth, seen)
    if vocabulary is None:
        words = compare.classes(known, detect.names())
    else:
        words = prompts.read_vocabulary(vocabulary)
    compare.check(known, words)
    entries = [columns.read_entry(text, words) for text in detector]
    if each_phrase:
        entries = [one for entry in entries for one in columns.each_phrase(entry)]
    total = seen.count()
    done = columns.run(
        entries,
        seen,
        output,
        batch=batch,
        force=force,
        progress=lambda entry: console.progress(entry.title, total),
    )
    held = compare.Comparison([compare.judge(column, known) for column in done], least)
    compare.write(held, output)
    compare_pictures.curves(held, output / "curves.png")
    compare_pictures.sheet(held, seen, known, output / "sheet.png", rows)
    titles, lines = held.texts(held.unmeasured())
    console.table(titles, lines)
    console.say(f"{compare.NOT_MEASURED}: {', '.join(held.unmeasured())}")
    console.put(str(output))
    if failed := [judged.title for judged in held.judged if judged.column.error]:
        raise AnnotateError(f"{', '.join(failed)}: failed; the same command tries again")
