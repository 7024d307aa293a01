"""Files that are damaged, forged or made to harm, and what readers make of them."""

from ._try import Fault as Fault, trying as trying
