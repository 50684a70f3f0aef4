"""OpenFWI files, normalisation, synthetic velocity maps and forward modelling."""
