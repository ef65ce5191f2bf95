"""Commands for whoever runs it: what is wrong, who may do what, what was refused, back to older weights."""
