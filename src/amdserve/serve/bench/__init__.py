"""`amdserve bench`: how fast is each backend with this model, here? And which settings should serve it?

The grid of tests is pure (`grid`), and so are the order in which they are run (`schedule`), the choice that
follows from them (`choose`), the comparison of two results (`compare`) and what is shown (`table`, `chart`,
`page`). `measure` runs the shipped llama-bench, `facts` looks at the machine, `command` puts them together.
"""
