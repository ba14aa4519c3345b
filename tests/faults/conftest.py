from tests.acceptance.conftest import (  # noqa: F401 - fixtures
    no_process_outlives_its_test,
    work,
)
