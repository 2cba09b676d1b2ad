# A machine that boots the image: verified over TCP, through its power button and a hard reset under load
#: machine=image timeout=600
serve_through direct tcp
