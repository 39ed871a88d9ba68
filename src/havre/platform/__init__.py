"""The products: they speak only the Kubernetes API, and run unchanged on any cluster.

Each folder is one product. Products meet in the API, never in an import.
"""
