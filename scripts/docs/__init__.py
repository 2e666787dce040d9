"""The generated parts of the documentation, and a look at its parts for the tests.

A page is written by hand but for blocks between two comments::

    <!-- generated: exit-codes -->
    <!-- end of exit-codes -->

``python -m scripts.docs`` fills them; ``--check`` says which are out of date.
"""
