"""What every sandbox promises, case by case. A test file takes them all with `import *`, and says
in KIND which sandbox it means; conftest.py opens it.
"""

from cases_files import *  # noqa: F403
from cases_limits import *  # noqa: F403
from cases_program import *  # noqa: F403
from cases_reach import *  # noqa: F403
from sandbox_programs import marker  # noqa: F401
