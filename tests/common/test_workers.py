"""What goes wrong in a loading process is said in one line."""

import pytest

from common.errors import UserError
from common.workers import unbroken


def test_trouble_in_a_loading_process_is_one_line():
    def broken(error):
        raise error
        yield

    worker = UserError("Caught UserError in worker 0.\nTraceback ...\nerrors.UserError: x.png: broken image (cut off)")
    with pytest.raises(UserError, match=r"^x\.png: broken image \(cut off\)$"):
        next(unbroken(broken(worker)))
    with pytest.raises(UserError, match="a data loading process died"):
        next(unbroken(broken(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))))
    with pytest.raises(RuntimeError, match="something else"):
        next(unbroken(broken(RuntimeError("something else"))))
