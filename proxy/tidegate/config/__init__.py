"""The settings of an operator: frozen structs that accept no unknown keys, one file per section of the config file.

`root` combines the sections to `Config`, and `load` reads a file. Every field's description is written once, in its
`Meta`: `reference` makes the JSON schema for editors and the reference file `configs/tidegate.yaml` from it.
"""
