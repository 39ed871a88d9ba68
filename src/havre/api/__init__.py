"""The vocabulary of the API: what an object is, which kinds exist, how a request fails. Pure data and pure functions.

meta      Obj, Kind and Resource identities, small readers of metadata
errors    the tree of API errors, each of which is a Status
"""
