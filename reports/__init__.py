"""Report writers, each of which turns a `SurveyResult` into the text of one file."""
