"""Commands that find out what works: compare, phrases, study."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.options import (
    Clip,
    Every,
    Force,
    Least,
    Most,
    PerhapsWords,
    Settings,
    Start,
    Stop,
    complete_detector,
    pairs,
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
            metavar="[TITLE=]NAME[:KEY=VALUE,...]",
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
    entries = columns.read_entries(detector, words, each_phrase=each_phrase)
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
    compare_pictures.write(held, seen, known, output, rows)
    titles, lines = held.texts(held.unmeasured())
    console.table(titles, lines)
    console.say(f"{compare.NOT_MEASURED}: {', '.join(held.unmeasured())}")
    console.put(str(output))
    if failed := [judged.title for judged in held.judged if judged.column.error]:
        raise AnnotateError(f"{', '.join(failed)}: failed; the same command tries again")


@app.command()
def phrases(
    word: Annotated[list[str], typer.Argument(help="What the thing may be called.")],
    most: Annotated[int, typer.Option("--max", min=1, help="At most so many for each.")] = 12,
    meaning: Annotated[
        bool, typer.Option(help="Add those near in meaning, where MiniLM is installed.")
    ] = True,
) -> None:
    """Search the classes that detectors are trained on: LVIS, COCO and Objects365."""
    from annotate import console, phrases

    embedder = phrases.embedder() if meaning else None
    columns = (
        "asked",
        "phrase",
        "how",
        "near",
        "set",
        "class",
        "synonyms",
        "pictures",
        "what it is",
    )
    rows = []
    for asked in word:
        for match in phrases.search(asked, most, embedder):
            one = match.known
            known = (one.data_set, one.name, ", ".join(one.synonyms), one.pictures or "")
            found = (asked, match.phrase, match.how, f"{match.nearness:.2f}")
            rows.append((*found, *known, one.definition))
    console.table(columns, rows)
    if embedder is None:
        console.say("by spelling only; by meaning too with: pip install 'annotate-local[phrases]'")


@app.command()
def study(
    clip: Clip,
    frame: Annotated[int, typer.Option(min=0, help="The frame that shows the thing.")],
    box: Annotated[str, typer.Option(metavar="X1,Y1,X2,Y2", help="A box round it, in pixels.")],
    describe: Annotated[
        str, typer.Option(autocompletion=complete_detector, help="Who describes: moondream or vlm.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what it makes.")],
    word: Annotated[
        str | None, typer.Option(help="The word to look for; else the most telling noun.")
    ] = None,
    name: Annotated[str, typer.Option(help="The class's name.")] = "object",
    count: Annotated[int, typer.Option(min=2, help="How many crops.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed draws other crops.")] = 0,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Have crops round a thing described: which words are used for it, and from how near."""
    from annotate import (
        console,
        describers,
        prompts,
        shapes,
        study,
        study_report,
        study_words,
        video,
    )

    seen = video.probe(clip)
    scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
    _, region = shapes.read_region(f"{frame},{box}", scope)
    words = study_words.english()
    wanted = None if word is None else study_words.lemma(word, words)
    who, told = describers.load(describe, pairs(settings))
    job = study.Job(who, describe, told, clip, frame, region, count, seed)
    with console.progress(describe, count, "crops") as advance:
        said = study.describe(job, output / "descriptions.jsonl", force=force, progress=advance)
    made = study_report.findings(study_words.read(said, words), wanted)
    made.write(output)
    console.frame(made.phrases.head(12).set_index("phrase"))
    console.say(f"“{made.word}” stands in {made.table['has_word'].sum()} of {count} descriptions")
    console.put(study_words.entry(name, describe, made.phrases))
