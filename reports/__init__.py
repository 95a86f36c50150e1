"""Results as documents; each writer takes a `SurveyResult` and returns the text of one file."""
