"""A search's span is told what came of it."""

from pointsman_servicekit.tracing.spans import Attribute, current

from pointsman_retriever.facts import Event, Observer, SearchCompleted


class TracedObserver:
    """Implements `Observer` around another."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner

    def note(self, fact: Event) -> None:
        if isinstance(fact, SearchCompleted):
            current().set_attributes(_search_attributes(fact))
        self._inner.note(fact)


def _search_attributes(fact: SearchCompleted) -> dict[str, Attribute]:
    """By the names of OpenTelemetry's conventions for generative AI where they have one."""
    return {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "pointsman",
        "gen_ai.data_source.id": fact.collection,
        "pointsman.passages": fact.passages,
        **({} if fact.best is None else {"pointsman.best_cosine": fact.best}),
        **{f"pointsman.seconds.{leg}": seconds for leg, seconds in fact.legs.items()},
    }
