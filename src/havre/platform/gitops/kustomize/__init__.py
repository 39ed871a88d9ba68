"""Kustomize in Python: pure, bounded, from files in memory to objects.

target           the tree of kustomizations: resources, generators, components, the order of the transformers
spec             the kustomization file, typed
files            the tree of files, and paths that stay in it
resource         an object with its former names; reading manifests
transform        namespace, names, labels, annotations, replicas, images
patch  merge     patches, and strategic merge in kustomize's way
generate         ConfigMaps and Secrets, content hashes
replace          replacements
names            references to names, put right at the end
selection        which objects a patch means
fields  tables   field paths, and the tables of them
configuration    tables from files, transformers as objects
order            sortOptions

Left out, refused in clear words: vars, helmCharts, generators and validators from files, crds, openapi, remote bases.
"""

from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.target import build

__all__ = ["BuildError", "build"]
