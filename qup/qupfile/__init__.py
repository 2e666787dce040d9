"""The Qupfile: found and read, checked with every problem at its line, and made a ``Config``.

:func:`read` turns bytes into a :class:`Document`, :func:`load` a document, the environment and
the command line into a :class:`~qup.model.config.Config`. Both raise :class:`QupfileErrors`,
which has all problems at once. :func:`schema` describes a Qupfile to editors.
"""

from __future__ import annotations

from qup.qupfile.document import MAX_BYTES, Document, parse, read
from qup.qupfile.loading import load
from qup.qupfile.problems import Problem, QupfileErrors
from qup.qupfile.registry import Registry
from qup.qupfile.rules import Untrusted
from qup.qupfile.rules import find_untrusted as untrusted
from qup.qupfile.schema import make_schema as schema
from qup.qupfile.tables import DEFAULT_MACHINE, MAX_MACHINES

__all__ = [
    "DEFAULT_MACHINE",
    "MAX_BYTES",
    "MAX_MACHINES",
    "Document",
    "Problem",
    "QupfileErrors",
    "Registry",
    "Untrusted",
    "load",
    "parse",
    "read",
    "schema",
    "untrusted",
]
