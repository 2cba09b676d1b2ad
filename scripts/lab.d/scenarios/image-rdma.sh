# The same from UEFI firmware and a stick, over RDMA with soft-RoCE at both ends
#: machine=image timeout=900
serve_through uefi rdma
