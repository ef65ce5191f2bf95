"""A broker and a Redis of one's own on this machine. Start with `stack.local_stack`."""
