"""The calls of the application. In: tracked calls and statements about the user. Out: uses, to the recorder of each
feature.
"""
