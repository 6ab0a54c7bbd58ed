"""Commands that evaluate detectors and words: compare, phrases, study."""

from pathlib import Path
from typing import Annotated

import typer

from annotate.cli.options import (
    ClipPath,
    Every,
    Force,
    MaxFrames,
    MinScore,
    OptionalVocabulary,
    Settings,
    Start,
    Stop,
    complete_detector,
    key_value_pairs,
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
            help="A detector, with its options; repeatable.",
        ),
    ],
    vocabulary: OptionalVocabulary = None,
    truth: Annotated[
        Path | None, typer.Option(help="Ground truth: items, COCO or a dataset.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for tables and pictures.")
    ] = Path("compare"),
    each_phrase: Annotated[
        bool, typer.Option("--each-phrase", help="Also run each phrase of a class alone.")
    ] = False,
    mask: Annotated[
        str | None,
        typer.Option(help="Run each detector also with all but the colour of this class blacked."),
    ] = None,
    near: Annotated[
        str | None,
        typer.Option(help="Run each detector also on crops near the colour of this class."),
    ] = None,
    margin: Annotated[int, typer.Option(min=0, help="Pixels kept around those of --near.")] = 40,
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    max_frames: MaxFrames = None,
    min_score: MinScore = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames in a batch of a detector.")] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Frames on the sheet.")] = 8,
    force: Force = False,
) -> None:
    """Compare detectors on the same frames.

    Show what each finds, its time, memory and cost.
    """
    from annotate.cli import console
    from annotate.errors import AnnotateError
    from annotate.evaluation.comparison import compare_detectors
    from annotate.evaluation.scores import NOT_MEASURED
    from annotate.video.reader import FrameSelection

    comparison = compare_detectors(
        source,
        detector,
        output=output,
        vocabulary=vocabulary,
        truth=truth,
        selection=FrameSelection(every, start=start, stop=stop, maximum=max_frames),
        each_phrase=each_phrase,
        mask=mask,
        near=near,
        margin=margin,
        min_score=min_score,
        batch_size=batch_size,
        rows=rows,
        force=force,
        progress=console.progress,
    )
    unmeasured = comparison.unmeasured_columns()
    console.print_table(*comparison.formatted(unmeasured))
    console.print_note_lines(comparison.notes)
    console.print_status(f"{NOT_MEASURED}: {', '.join(unmeasured)}")
    console.print_result(str(output))
    if comparison.failed:
        names = ", ".join(comparison.failed)
        raise AnnotateError(f"{names}: failed; run the same command to try again")


@app.command()
def score(
    items: Annotated[Path, typer.Argument(help="A file of items, COCO, or a dataset.")],
    truth: Annotated[Path, typer.Argument(help="Ground truth: items, COCO or a dataset.")],
    min_score: MinScore = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a file of items against ground truth.

    Show AP, AP50, precision and recall of each class, on the frames that both have.
    """
    import json

    from annotate.cli import console
    from annotate.evaluation.scores import SCORE_COLUMNS, score_items

    result = score_items(items, truth, min_score=min_score)
    if as_json:
        console.print_result(json.dumps(result.record(), indent=1, ensure_ascii=False))
    else:
        console.print_table(SCORE_COLUMNS, result.rows())
    console.print_note_lines(result.notes)
    console.print_status(f"scored on {result.frame_count} frames")


@app.command()
def phrases(
    word: Annotated[list[str], typer.Argument(help="What the object may be called.")],
    max_matches: Annotated[
        int, typer.Option("--max-matches", min=1, help="Show at most N for each word.")
    ] = 12,
    meaning: Annotated[
        bool, typer.Option(help="Also search by meaning, where MiniLM is installed.")
    ] = True,
) -> None:
    """Search the class names of public data sets.

    Search LVIS, COCO and Objects365, which detectors are trained on.
    """
    from annotate.cli import console
    from annotate.evaluation import class_names

    embedder = class_names.load_embedder() if meaning else None
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
    unmatched = []
    for query in word:
        matches = class_names.search(query, max_matches, embedder)
        unmatched += [] if matches else [query]
        for match in matches:
            one = match.dataset_class
            matched = (query, match.phrase, match.kind, f"{match.similarity:.2f}")
            published = (one.data_set, one.name, ", ".join(one.synonyms), one.image_count or "")
            rows.append((*matched, *published, one.definition))
    console.print_table(columns, rows)
    if unmatched:
        console.print_status(f"no class name is like: {', '.join(unmatched)}")
    if embedder is None:
        console.print_status(
            "by spelling only; by meaning too with: pip install 'annotate-local[phrases]'"
        )


@app.command()
def study(
    clip: ClipPath,
    frame: Annotated[int, typer.Option(min=0, help="The frame that shows the object.")],
    box: Annotated[str, typer.Option(metavar="X1,Y1,X2,Y2", help="Box of the object, in pixels.")],
    describe: Annotated[
        str,
        typer.Option(
            autocompletion=complete_detector, help="The model that describes: moondream or vlm."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for tables and pictures.")],
    word: Annotated[
        str | None, typer.Option(help="The word to look for; else the most typical noun.")
    ] = None,
    name: Annotated[str, typer.Option(help="The class's name.")] = "object",
    count: Annotated[int, typer.Option(min=2, help="Number of crops.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed draws other crops.")] = 0,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Have a model describe crops of an object.

    Show which words it uses, and at which crop sizes.
    """
    from annotate import prompts
    from annotate.cli import console
    from annotate.evaluation import caption_terms, captions
    from annotate.video import reader

    video = reader.probe(clip)
    region = prompts.parse_xyxy(box, (video.width, video.height), f"`box` {box}")
    model = caption_terms.load_spacy_model()
    lemma = None if word is None else caption_terms.lemmatize(word, model)
    captioner, captioner_settings = captions.load_captioner(describe, key_value_pairs(settings))
    job = captions.Job(captioner, describe, captioner_settings, clip, frame, region, count, seed)
    with console.progress(describe, count, "crops") as advance:
        descriptions = captions.describe_crops(
            job, output / "descriptions.jsonl", force=force, progress=advance
        )
    console.print_note_lines(captions.notes_of(captioner))
    parsed = caption_terms.parse_descriptions(descriptions, model)
    report = caption_terms.build_report(parsed, lemma)
    report.write(output)
    console.print_dataframe(report.phrases.head(12).set_index("phrase"))
    console.print_status(
        f"“{report.word}” is in {report.descriptions['has_word'].sum()} of {count} descriptions"
    )
    console.print_result(caption_terms.vocabulary_entry(name, describe, report.phrases))
