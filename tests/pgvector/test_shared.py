"""Collections that several retrievers share in a real PostgreSQL."""

from dataclasses import replace

import pytest
from pointsman_retriever.domain import CollectionInfo
from pointsman_retriever.shared.pgvector import PgvectorStore
from pointsman_retriever.shared.stores import SharedStoreOptions
from pointsman_servicekit.errors import FailedPrecondition

from tests.pgvector.conftest import Run
from tests.retriever.shared_conformance import SharedConformance

PREFIXES = ("pointsman_test", "pointsman_dev", "pointsman_denied")


class TestPgvectorStore(SharedConformance):
    implementation = PgvectorStore

    @pytest.fixture
    def options(self, url: str, run: Run) -> SharedStoreOptions:
        run(*(f"DROP SCHEMA IF EXISTS {one} CASCADE" for one in PREFIXES))
        return SharedStoreOptions(url, prefix=PREFIXES[0])

    def test_a_database_without_the_extension_is_refused_with_the_remedy(
        self, options: SharedStoreOptions, run: Run
    ) -> None:
        run("DROP DATABASE IF EXISTS bare", "CREATE DATABASE bare")
        with pytest.raises(FailedPrecondition, match=r"no extension pgvector; .* CREATE EXTENSION vector"):
            PgvectorStore(replace(options, url=f"{options.url.removesuffix('/postgres')}/bare"))

    def test_a_user_without_permission_is_refused_with_the_remedy(self, options: SharedStoreOptions, run: Run) -> None:
        run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
        with pytest.raises(
            FailedPrecondition,
            match=r"user reader may not create the schema .*; .* CREATE SCHEMA .* AUTHORIZATION reader",
        ):
            PgvectorStore(replace(options, url=options.url.replace("postgres@", "reader@"), prefix=PREFIXES[2]))

    def test_a_model_of_too_many_dimensions_is_refused(self, options: SharedStoreOptions) -> None:
        store = PgvectorStore(options)
        with pytest.raises(FailedPrecondition, match="vectors of 4,096 dimensions, and pgvector indexes at most 4,000"):
            store.create(CollectionInfo("notes", "model", 4_096))
        store.close()
