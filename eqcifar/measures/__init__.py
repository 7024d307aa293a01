from ._column_name import SUFFIXES as SUFFIXES, column_name as column_name
from ._measure import Column as Column, Measure as Measure, Picture as Picture
from ._measures import (
    COLUMNS as COLUMNS,
    MEASURES as MEASURES,
    check_measures as check_measures,
    depends_on_loss as depends_on_loss,
    meaning as meaning,
    unit as unit,
    unit_of_loss as unit_of_loss,
    usual_measures as usual_measures,
)
