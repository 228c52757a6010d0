"""The command-line options of `pointsman advise`, with their help texts."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.certificate.statement import (
    MAX_DIFFERENCE,
    MAX_POWER,
    MAX_PRICE_CHANGE,
    MIN_DIFFERENCE,
    MIN_POWER,
)
from pointsman_cli.optional import optional

EvaluationArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[REPORT]",
        help="A report written by `pointsman eval --json`; or --live, --from, --against or --regret.",
        show_default=False,
    ),
]
LiveOption = Annotated[
    bool, typer.Option("--live", help="Advise by the ratings of a running gateway: feedback and shadow requests.")
]
RecordsOption = Annotated[
    str, optional("FOLDER|URL", "Advise by the ratings and receipts in the exporter's Parquet files.", "--from")
]
SinceOption = Annotated[str, typer.Option(metavar="AGE", help="With --from: how old records may be, in whole days.")]
AgainstOption = Annotated[
    str, optional("MODEL", "Compare the engines' hourly price with this model's list price, as in gpt-4o-mini.")
]
RegretOption = Annotated[
    bool,
    typer.Option("--regret", help="Compare a running gateway's shadow requests with the paths that were chosen."),
]
TrainingFilesOption = Annotated[
    list[Path] | None, typer.Option("--training", metavar="FILE", help="training.json of an adapter; repeatable.")
]
TrainerUsdPerHourOption = Annotated[
    float | None, optional("USD", "Price of the training machine; needed with --training.", low=0)
]
TrainingCostsOption = Annotated[
    list[str] | None,
    typer.Option("--training-cost", metavar="NAME=USD", help="What training an adapter cost; instead of --training."),
]
RequestsPerMonthOption = Annotated[float | None, optional("N", "Volume of the task.", low=0)]
AmortizationMonthsOption = Annotated[
    float, typer.Option(min=0.1, metavar="N", help="Months over which one training is paid off.")
]
RetrainDaysOption = Annotated[
    float | None, optional("DAYS", "Days after which the adapter is retrained; default: never.", low=0.1)
]
AdapterUsdPerMonthOption = Annotated[
    float, typer.Option(min=0, metavar="USD", help="Fixed cost of serving the adapter.")
]
WrongAnswerUsdOption = Annotated[float, typer.Option(min=0, metavar="USD", help="What a wrong answer costs you.")]
MinScoreOption = Annotated[
    float | None, optional("SCORE", "Required score (lower end of its interval).", low=0, high=1)
]
MinValidOption = Annotated[float | None, optional("SHARE", "Required share of well-formed answers.", low=0, high=1)]
MaxP95SecondsOption = Annotated[float | None, optional("SECONDS", "Allowed 95th percentile of latency.", low=0)]
CertificateOption = Annotated[
    Path | None,
    optional("FILE", "Write the verdict with its evidence to this file; needs the gateway that was evaluated."),
]
DifferenceOption = Annotated[
    float | None,
    optional(
        "SCORE",
        "With --certificate: the smallest difference that matters; default: 0.03, or a tenth of the best score.",
        low=MIN_DIFFERENCE,
        high=MAX_DIFFERENCE,
    ),
]
PowerOption = Annotated[
    float,
    typer.Option(
        min=MIN_POWER,
        max=MAX_POWER,
        metavar="P",
        help="With --certificate: how surely the rows that are asked for suffice.",
    ),
]
ValidDaysOption = Annotated[
    float, typer.Option(min=0.01, max=3650, metavar="DAYS", help="With --certificate: days until it expires.")
]
MaxPriceChangeOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=MAX_PRICE_CHANGE,
        metavar="SHARE",
        help="With --certificate: by how much a price may change until it is invalid.",
    ),
]
SigningKeyOption = Annotated[
    Path | None, optional("FILE", "With --certificate: sign it with this Ed25519 key, a PEM file.")
]
VerifyOption = Annotated[Path | None, optional("FILE", "Verify a certificate.", "--verify")]
DataOption = Annotated[Path | None, optional("DATASET", "With --verify: the evaluated data set as it is now.")]
ConfigOption = Annotated[
    Path | None,
    optional("FOLDER", "With --verify: compare with this configuration instead of a gateway's; sends no sample."),
]
SampleOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="With --verify: rows of each task that are sent again to each path.")
]
SeedOption = Annotated[int, typer.Option(min=0, metavar="N", help="With --verify: chooses the rows of the sample.")]
TrustedKeyOption = Annotated[
    Path | None, optional("FILE", "With --verify: the Ed25519 key, in PEM, by which it must be signed.")
]
MarkdownOption = Annotated[Path | None, optional("FILE", "With --verify: write the result as Markdown, too.")]
AdapterFoldersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=FOLDER",
        help="With --certificate and --verify: the folder of an adapter's files; repeatable.",
    ),
]
