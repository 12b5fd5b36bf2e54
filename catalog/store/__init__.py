"""Projects, images and labels in a database; the only package of the catalog that uses SQL.

Image files lie in `catalog.library`; what a model suggests is computed in `catalog.helper`.
"""

from sqlalchemy.orm import Session

from catalog.store.database import Database, open_database
from catalog.store.failures import UnavailableError
