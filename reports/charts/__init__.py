"""The charts of the reports, as specifications in Vega-Lite; one module per chart."""
