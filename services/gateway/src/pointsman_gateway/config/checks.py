"""Checks that the configuration files fit each other, for example that each path's model exists."""

from collections.abc import Mapping

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.model_checks import check_aliases, check_models, check_prices
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.path_checks import check_paths
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.task_checks import check_learning, check_metrics, check_tasks
from pointsman_gateway.config.tasks_file import TasksFile


def check_files(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    """Raises ConfigError if a name in one file refers to nothing in the others, or if settings do not fit each other.

    `prompts` are the texts of the prompt files, by the file's name.
    """
    check_models(models)
    check_prices(models, paths, tasks)
    check_aliases(models, paths)
    check_paths(models, paths, tasks, prompts)
    check_tasks(paths, tasks)
    check_metrics(models, paths, tasks, prompts)
    check_learning(models, paths, tasks)
    names = [guardrail.name for guardrail in tasks.guardrails]
    if len(set(names)) != len(names):
        raise ConfigError(f"tasks.yaml: two guardrails have the same name: {', '.join(names)}")
