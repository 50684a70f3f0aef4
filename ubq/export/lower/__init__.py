"""The integer model, and its lowerings to the runtimes' files."""
