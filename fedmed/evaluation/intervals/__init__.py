"""How sure a number is: resamples of patients, intervals and p-values."""
