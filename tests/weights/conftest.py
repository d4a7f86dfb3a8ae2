from tests.fixtures.toy import toy

__all__ = ["toy"]
