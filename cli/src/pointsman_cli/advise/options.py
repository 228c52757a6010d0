"""The options of `pointsman advise`."""

from pathlib import Path
from typing import Annotated

import typer

EvaluationArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[REPORT]",
        help="A report written by `pointsman eval --json`; or --live, --against or --regret.",
        show_default=False,
    ),
]
LiveOption = Annotated[
    bool, typer.Option("--live", help="Advise by the ratings of a running gateway: feedback and shadow requests.")
]
AgainstOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="Compare the engines' hourly price with this model's list price, as in gpt-4o-mini.",
        show_default=False,
    ),
]
RegretOption = Annotated[
    bool,
    typer.Option("--regret", help="Compare a running gateway's shadow requests with the paths that were chosen."),
]
TrainingFilesOption = Annotated[
    list[Path] | None, typer.Option("--training", metavar="FILE", help="training.json of an adapter; repeatable.")
]
TrainerUsdPerHourOption = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="USD", help="Price of the training machine; needed with --training.", show_default=False
    ),
]
TrainingCostsOption = Annotated[
    list[str] | None,
    typer.Option("--training-cost", metavar="NAME=USD", help="What training an adapter cost; instead of --training."),
]
RequestsPerMonthOption = Annotated[
    float | None, typer.Option(min=0, metavar="N", help="Volume of the task.", show_default=False)
]
AmortizationMonthsOption = Annotated[
    float, typer.Option(min=0.1, metavar="N", help="Months over which one training is paid off.")
]
RetrainDaysOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        metavar="DAYS",
        help="Days after which the adapter is retrained; default: never.",
        show_default=False,
    ),
]
AdapterUsdPerMonthOption = Annotated[
    float, typer.Option(min=0, metavar="USD", help="Fixed cost of serving the adapter.")
]
WrongAnswerUsdOption = Annotated[float, typer.Option(min=0, metavar="USD", help="What a wrong answer costs you.")]
MinScoreOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="SCORE", help="Required score (lower end of its interval).", show_default=False),
]
MinValidOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="SHARE", help="Required share of well-formed answers.", show_default=False),
]
MaxP95SecondsOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Allowed 95th percentile of latency.", show_default=False),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the verdict with its evidence to this file; needs the gateway that was evaluated.",
        show_default=False,
    ),
]
DifferenceOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=0.5,
        metavar="SCORE",
        help="With --certificate: the smallest difference that matters; default: 0.03, or a tenth of the best score.",
        show_default=False,
    ),
]
PowerOption = Annotated[
    float,
    typer.Option(
        min=0.5, max=0.99, metavar="P", help="With --certificate: how surely the rows that are asked for suffice."
    ),
]
ValidDaysOption = Annotated[
    float, typer.Option(min=0.01, max=3650, metavar="DAYS", help="With --certificate: days until it expires.")
]
MaxPriceChangeOption = Annotated[
    float,
    typer.Option(
        min=0, max=0.9, metavar="SHARE", help="With --certificate: by how much a price may change until it is invalid."
    ),
]
SigningKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --certificate: sign it with this Ed25519 key, a PEM file.", show_default=False
    ),
]
VerifyOption = Annotated[
    Path | None, typer.Option("--verify", metavar="FILE", help="Verify a certificate.", show_default=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option(metavar="DATASET", help="With --verify: the evaluated data set as it is now.", show_default=False),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="With --verify: compare with this configuration instead of a gateway's; sends no sample.",
        show_default=False,
    ),
]
SampleOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="With --verify: rows of each task that are sent again to each path.")
]
SeedOption = Annotated[int, typer.Option(min=0, metavar="N", help="With --verify: chooses the rows of the sample.")]
TrustedKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --verify: the Ed25519 key, in PEM, by which it must be signed.", show_default=False
    ),
]
MarkdownOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --verify: write the result as Markdown, too.", show_default=False),
]
AdapterFoldersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=FOLDER",
        help="With --certificate and --verify: the folder of an adapter's files; repeatable.",
    ),
]
