"""Small tools without a domain; nothing here reaches outside the process.

field       a problem with one field of an object, worded as the Kubernetes API words it
quantity    Kubernetes quantities: "500m", "1Gi"
backoff     1, 2, 4 … seconds, capped
names       DNS labels, subdomains, qualified names
supervision tasks that must go on: one that ends starts again
"""
