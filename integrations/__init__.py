"""One module a platform; the package imports each only when it is used."""
