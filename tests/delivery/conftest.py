"""Real PACS for the tests of delivery."""

from pacs_fixtures import loopback, orthanc, start_orthanc, start_storescp, storescp  # noqa: F401
