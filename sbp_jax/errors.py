"""The one error that is the user's to fix. Entry points print it as one line and exit with 2."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # any write may meet them


class UserError(ValueError):
    """A mistake in a config, a file or the environment: names the culprit and the remedy."""
