# Targets that are not the build itself.
.PHONY: check-unit
check-unit: $(TESTS)
	@for t in $(TESTS); do echo "== $$(basename $$t)"; $$t; done

layers:
	@tools/check_layers
walls:
	@tools/check_walls
clean:
	rm -rf build pw
help:
	@echo 'make | make demo | make check | ...'
# Every check must find the mistake planted for it.
.PHONY: check-bad print-B
check-bad:
	@tests/bad/run.sh
print-B:
	@echo $(B)
config:
	@tools/config
