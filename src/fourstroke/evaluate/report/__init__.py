"""`fourstroke eval report`: all that evaluations can say of a model, as one page of HTML and as JSON."""
