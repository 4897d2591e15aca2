"""Which failures of a worker a restart would meet again."""

from pipelines.cli.exits import Failed
from pipelines.cli.ray_errors import explain_failure, is_mistake
from storage.errors import AccessDenied, BadDataset, CorruptWeights, NoCredentials


def test_a_metadata_service_that_throttles_a_worker_ends_no_stage() -> None:
    """The driver had credentials; 64 decoding processes ask at once."""
    error = NoCredentials("s3://b/x: no AWS credentials found")
    assert not is_mistake(error)
    assert isinstance(explain_failure("pretrain", error), Failed)
    assert "no AWS credentials found" in str(explain_failure("pretrain", error))


def test_what_a_restart_would_meet_again_is_a_mistake() -> None:
    assert is_mistake(BadDataset("pack it again"))
    assert is_mistake(AccessDenied("refused"))
    assert not is_mistake(CorruptWeights("torn"))  # there is a state before it
