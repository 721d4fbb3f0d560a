"""Episodes of other libraries' data sets to and from stores of histories."""
