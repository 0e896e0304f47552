"""Every error that Seamark raises on purpose, in one flat hierarchy; each message says what to do next."""

from __future__ import annotations


class SeamarkError(Exception):
    """The root of all errors that Seamark raises on purpose."""


# --- what the user asked for --------------------------------------------------------------------------------------


class InvalidRequestError(SeamarkError):
    """The arguments cannot be meant: an empty query, a limit below 1, an unknown mode, a malformed filter."""


class UnknownSourceError(SeamarkError):
    """No source of that name is attached."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        self.name = name
        attached = ", ".join(known) if known else "none yet"
        super().__init__(f"no source {name!r} is attached here (attached: {attached}); attach it with `seamark attach`")


class UnknownColumnError(InvalidRequestError):
    """A column was named that the table does not have."""

    def __init__(self, table: str, column: str, known: tuple[str, ...]) -> None:
        self.table, self.column = table, column
        super().__init__(f"table {table!r} has no column {column!r}; its columns are {', '.join(known)}")


class TableUnusableError(SeamarkError):
    """The table cannot be attached: it does not exist, has no primary key, or a column is not text."""


class SourceConflictError(SeamarkError):
    """The table is attached already, with other words."""


FORCE = "`--force` (`force=True` in Python)"
MEND = "`seamark verify {} --repair` mends what can be mended; otherwise detach it, then attach it again"


class SourceDriftError(SeamarkError):
    """The table is no longer what was attached: renamed, recreated, or without its triggers."""

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        self.name, self.problems = name, problems
        super().__init__(f"{name!r} is no longer as it was attached: {'; '.join(problems)}. {MEND.format(name)}")


class SourceUnfinishedError(SeamarkError):
    """An attach of the table was cut short, and nobody goes on with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name!r} was not attached to the end: attach it again with the same words")


class UnknownGenerationError(InvalidRequestError):
    """The source has no generation of that id."""

    def __init__(self, name: str, generation_id: int, known: tuple[int, ...]) -> None:
        self.name, self.generation_id = name, generation_id
        super().__init__(
            f"{name!r} has no generation {generation_id} (it has {', '.join(map(str, known)) or 'none'}); "
            f"see `seamark model list`"
        )


class GenerationIncompleteError(SeamarkError):
    """A generation cannot become the active one: rows that search finds now would be missing."""

    def __init__(self, name: str, generation_id: int, missing: int, failed: int, *, retired: bool = False) -> None:
        self.name, self.generation_id, self.missing, self.failed = name, generation_id, missing, failed
        finish = (
            "It is retired, so that no worker is at it: have it finished first (`seamark model swap` to the same), or activate "
            f"it as it is, with {FORCE}: workers then bring what is missing"
            if retired
            else "Let a worker finish it (`seamark work`; `seamark failures` for what failed), or activate it as it is, with "
            f"{FORCE}"
        )
        super().__init__(
            f"generation {generation_id} of {name!r} is not whole: {missing:,} rows are not indexed yet, {failed:,} failed. "
            f"{finish}"
        )


class GenerationInUseError(SeamarkError):
    """A generation cannot be retired or dropped so: search reads it."""

    def __init__(self, name: str, generation_id: int) -> None:
        self.name, self.generation_id = name, generation_id
        super().__init__(
            f"generation {generation_id} of {name!r} is the active one, which search reads: activate another one first, "
            f"or retire it with {FORCE}, which leaves search without it"
        )


class NoRollbackError(SeamarkError):
    """There is no generation from before the active one to go back to."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        super().__init__(
            f"{name!r} has no {kind} generation from before the active one; `seamark model list` shows what there is, and "
            f"`seamark model activate` takes the number of any of them"
        )


class BudgetSpentError(SeamarkError):
    """The next call of the model would cost more than is left of the budget."""

    def __init__(self, spent: int, budget: int) -> None:
        self.spent, self.budget = spent, budget
        super().__init__(
            f"the budget of {budget:,} tokens does not suffice for the next call ({spent:,} are spent). All that is paid for "
            f"is kept; work on with another budget, or without one"
        )


# --- the database -------------------------------------------------------------------------------------------------


class StoreError(SeamarkError):
    """The database refused or failed an operation."""


class StoreUnavailableError(StoreError):
    """The database cannot be reached, is locked for too long, or went away; the operation may be run again."""


class StorePermissionError(StoreError):
    """The database role lacks a right that the operation needs."""


class StoreIncompatibleError(StoreError):
    """The database is not ours in this version: a missing extension, a newer or foreign schema, a too old server."""


# --- embedders ----------------------------------------------------------------------------------------------------


class EmbedderError(SeamarkError):
    """An embedding call failed; the subclasses say who has to do something about it."""


class EmbedderConfigurationError(EmbedderError):
    """The embedder can never work as configured: a bad key, an unknown model, another dimension. No row is to blame."""


class EmbedderDimensionError(EmbedderConfigurationError):
    """The vectors are of another length than those that the model is registered with."""


class ModelDriftError(EmbedderConfigurationError):
    """The model behind a name is another one than was registered: its vectors cannot be mixed with those in the index."""

    def __init__(self, model: str, drift: str) -> None:
        self.model, self.drift = model, drift
        super().__init__(
            f"model_drift: {model} is not what it was when it was registered: {drift}. Nothing more is written under that "
            f"name. Bring the old model back, swap to the new one under a version of its own (`seamark model swap`), "
            f"or, if its vectors are the same to you, `seamark model accept TABLE NUMBER`"
        )


class EmbedderUnavailableError(EmbedderError):
    """The embedder is out for now (connection refused, 429, 503). No row is to blame and no attempt is spent."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class EmbedderTransientError(EmbedderError):
    """The call failed in a way that may go away (a 500, a time-out, a malformed reply). Spends an attempt."""


class EmbedderInputError(EmbedderError):
    """The embedder refused these texts. The batch is bisected until the one text stands alone, and is parked."""
