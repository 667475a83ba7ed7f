"""What an operator may set: frozen, closed structs, one file per section; `root` puts them together, `load` reads them.

Every field's description is written once, in its `Meta`: the JSON schema for editors and the reference file
`configs/tidegate.yaml` are made from it (`reference`).
"""
